"""Which attributes can identify a person: the confidentiality profile of DICOM, as kinds.

Source: PS3.15, table E.1-1 (2024b), which has them removed, emptied or replaced. Dates, times and
names are told by their value representation, and so by no list; UIDs likewise.
"""

from __future__ import annotations

__all__ = ["KINDS", "kind_of"]

KINDS: dict[str, tuple[str, ...]] = {
    "name": (
        "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
        "ReferringPhysicianName", "ConsultingPhysicianName", "PerformingPhysicianName",
        "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "OperatorsName",
        "RequestingPhysician", "ScheduledPerformingPhysicianName", "ResponsiblePerson",
        "ReviewerName", "PersonName", "VerifyingObserverName", "ContentCreatorName",
        "NamesOfIntendedRecipientsOfResults", "HumanPerformerName", "TopicAuthor", "Originator",
        "SelectorPNValue",
    ),
    "number of a person or visit": (
        "PatientID", "OtherPatientIDs", "OtherPatientIDsSequence", "IssuerOfPatientID",
        "AccessionNumber", "StudyID", "StudyIDIssuer", "AdmissionID", "IssuerOfAdmissionID",
        "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeID",
        "IssuerOfServiceEpisodeIDSequence", "MedicalRecordLocator", "InsurancePlanIdentification",
        "PatientInsurancePlanCodeSequence", "MilitaryRank", "PerformedProcedureStepID",
        "ScheduledProcedureStepID", "RequestedProcedureID", "RequestAttributesSequence",
        "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
        "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialSeriesID",
        "ClinicalTrialTimePointID", "InterpretationID", "InterpretationIDIssuer", "ResultsID",
        "ResultsIDIssuer", "ContainerIdentifier", "ContainerComponentID", "SpecimenIdentifier",
        "SpecimenAccessionNumber", "SlideIdentifier", "BarcodeValue", "FlowIdentifier",
        "FlowIdentifierSequence", "SourceIdentifier", "IssuerOfClinicalTrialSubjectID",
        "IssuerOfClinicalTrialSubjectReadingID", "IssuerOfClinicalTrialSeriesID",
        "IssuerOfClinicalTrialTimePointID", "IssuerOfTheContainerIdentifierSequence",
        "IssuerOfTheSpecimenIdentifierSequence", "ReferencedPatientSequence",
        "ReferencedPatientAliasSequence", "SpecimenPreparationSequence",
    ),
    "who took part": (
        "PersonIdentificationCodeSequence", "VerifyingObserverSequence",
        "VerifyingObserverIdentificationCodeSequence", "ActualHumanPerformersSequence",
        "ScheduledHumanPerformersSequence", "AuthorObserverSequence", "ParticipantSequence",
        "CustodialOrganizationSequence", "ConsultingPhysicianIdentificationSequence",
        "ContentCreatorIdentificationCodeSequence", "InterpretationApproverSequence",
        "IntendedRecipientsOfResultsIdentificationSequence", "ResultsDistributionListSequence",
        "OperatorIdentificationSequence", "PerformingPhysicianIdentificationSequence",
        "PhysiciansReadingStudyIdentificationSequence", "ROICreatorSequence",
        "PhysiciansOfRecordIdentificationSequence", "ROIInterpreterSequence",
        "ReferringPhysicianIdentificationSequence",
        "ScheduledPerformingPhysicianIdentificationSequence",
        "VerbalSourceIdentifierCodeSequenceTrial", "CertificateOfSigner", "CertifiedTimestamp",
        "DigitalSignaturesSequence", "ReferencedDigitalSignatureSequence", "MAC",
        "ReferencedSOPInstanceMACSequence",
    ),
    "about the person": (
        "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "EthnicGroup",
        "EthnicGroupCodeSequence", "Occupation", "PatientReligiousPreference", "SmokingStatus",
        "PregnancyStatus", "MedicalAlerts", "Allergies", "SpecialNeeds", "PatientState",
        "PatientSexNeutered", "AdditionalPatientHistory", "PatientSpeciesDescription",
        "CountryOfResidence", "RegionOfResidence", "BranchOfService", "CurrentPatientLocation",
        "PatientPrimaryLanguageCodeSequence", "PatientPrimaryLanguageModifierCodeSequence",
        "PatientTransportArrangements", "AdmittingDiagnosesCodeSequence", "PreMedication",
        "ReasonForVisitCodeSequence", "ReasonForRequestedProcedureCodeSequence",
        "ConfidentialityConstraintOnPatientDataDescription",
    ),
    "address": (
        "PatientAddress", "PatientTelephoneNumbers", "PatientTelecomInformation",
        "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "PersonAddress",
        "PersonTelephoneNumbers", "PatientInstitutionResidence", "DistributionAddress",
        "OrderCallbackPhoneNumber", "OrderCallbackTelecomInformation", "TelephoneNumberTrial",
        "ScheduledPatientInstitutionResidence", "TimezoneOffsetFromUTC",
    ),
    "institution": (
        "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
        "InstitutionCodeSequence", "InstitutionalDepartmentTypeCodeSequence", "RequestingService",
        "ClinicalTrialSiteName", "ClinicalTrialSiteID", "ClinicalTrialSponsorName",
        "ClinicalTrialCoordinatingCenterName", "ClinicalTrialProtocolID",
        "ClinicalTrialProtocolName", "ClinicalTrialProtocolEthicsCommitteeName",
        "ClinicalTrialProtocolEthicsCommitteeApprovalNumber", "IssuerOfClinicalTrialProtocolID",
        "IssuerOfClinicalTrialSiteID", "OtherClinicalTrialProtocolIDsSequence",
        "ResponsibleOrganization", "VerifyingOrganization", "HumanPerformerOrganization",
        "OrderEntererLocation", "RequestedProcedureLocation", "ScheduledStudyLocation",
        "ScheduledProcedureStepLocation", "NetworkID",
        "PerformedStationGeographicLocationCodeSequence",
        "ScheduledStationGeographicLocationCodeSequence",
    ),
    "device": (
        "DeviceSerialNumber", "StationName", "PerformedStationName", "ScheduledStationName",
        "PerformedStationNameCodeSequence", "ScheduledStationNameCodeSequence",
        "PerformedStationAETitle", "ScheduledStationAETitle", "RetrieveAETitle", "DeviceUID",
        "DetectorID", "GantryID", "PlateID", "CassetteID", "GeneratorID", "PerformedLocation",
        "SourceApplicationEntityTitle", "SendingApplicationEntityTitle",
        "ReceivingApplicationEntityTitle", "DeviceDescription", "DeviceLabel",
        "DeviceSettingDescription", "UniqueDeviceIdentifier", "UDISequence",
        "TransducerIdentificationSequence", "SourceSerialNumber", "SourceManufacturer",
        "TreatmentMachineName", "XRayDetectorID", "XRayDetectorLabel", "XRaySourceID",
        "LensSpecification", "MakerNote", "ModifyingDeviceID", "ModifyingSystem",
        "RTAccessoryDeviceSlotID", "RTAccessoryHolderSlotID",
    ),
    "free text": (
        "StudyDescription", "SeriesDescription", "PerformedProcedureStepDescription",
        "RequestedProcedureDescription", "ScheduledProcedureStepDescription", "ProtocolName",
        "ReasonForStudy", "ReasonForTheRequestedProcedure", "ReasonForTheImagingServiceRequest",
        "ReasonForOmissionDescription", "ReasonForTheAttributeModification",
        "AdmittingDiagnosesDescription", "DischargeDiagnosisDescription",
        "ServiceEpisodeDescription", "ContrastBolusAgent", "RequestedContrastAgent",
        "RequestedSeriesDescription", "ImageComments", "PatientComments", "StudyComments",
        "AcquisitionComments", "AcquisitionDeviceProcessingDescription",
        "AcquisitionFieldOfViewLabel", "DerivationDescription", "ModifiedImageDescription",
        "TextString", "TextValue", "IdentifyingComments", "VisitComments",
        "ImagePresentationComments", "ClinicalTrialSeriesDescription",
        "ContainerDescription", "SpecimenShortDescription", "PyramidDescription", "PyramidLabel",
        "TopicTitle", "TopicSubject", "TopicKeywords", "AnnotationGroupLabel", "EntityLabel",
        "EntityLongLabel", "EntityName", "UserContentLabel", "UserContentLongLabel", "ROIName",
        "ROIObservationLabel", "ROIGenerationDescription", "StructureSetLabel",
        "StructureSetName", "RTPlanLabel", "RTPlanName", "RTPrescriptionLabel",
        "RTToleranceSetLabel", "RTTreatmentApproachLabel", "RadiationDoseIdentificationLabel",
        "RadiationDoseInVivoMeasurementLabel", "RadiationGenerationModeLabel",
        "DisplacementReferenceLabel", "DoseReferenceDescription", "FractionGroupDescription",
        "PositionAcquisitionTemplateName", "TreatmentPositionGroupLabel", "TreatmentSite",
        "TreatmentSites", "PrescriptionNotesSequence", "ContentSequence",
        "AcquisitionContextSequence", "LabelText",
    ),
    "picture or document": (
        "IconImageSequence", "ReferencedPatientPhotoSequence", "GraphicAnnotationSequence",
        "EncapsulatedDocument", "DataSetTrailingPadding",
    ),
    "earlier content": (
        "OriginalAttributesSequence", "ModifiedAttributesSequence", "SourceOfPreviousValues",
        "NonconformingModifiedAttributesSequence", "NonconformingDataElementValue",
        "InstanceOriginStatus",
    ),
    "date or time": ("FrameOriginTimestamp",),
}  # fmt: skip
"""Attributes of the table by what they can tell."""

_KIND_OF = {keyword: kind for kind, keywords in KINDS.items() for keyword in keywords}
_KIND_OF_START = {
    "GPS": "address",
    "Lens": "device",
    "Selector": "free text",
    # of the groups that repeat, 50xx and 60xx
    "OverlayData": "picture or document",
    "OverlayComments": "free text",
    "CurveData": "picture or document",
}
_KIND_OF_VR = {
    "PN": "name",
    "DA": "date or time",
    "DT": "date or time",
    "TM": "date or time",
    "AS": "about the person",
    "LT": "free text",
    "ST": "free text",
    "UT": "free text",
    "UC": "free text",
    "UR": "address",
    "AE": "device",
}
_CLASSES_AND_SYNTAXES = {
    "SOPClassUID", "MediaStorageSOPClassUID", "TransferSyntaxUID", "ReferencedSOPClassUID",
    "ImplementationClassUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID",
}  # fmt: skip
"""UIDs that name a kind of thing, not one thing."""


def kind_of(keyword: str, vr: str) -> str:
    """What an attribute can tell of a person; empty where that is nothing.

    Args:
        keyword: As in the data dictionary; empty for an attribute that it does not have.
        vr: Its value representation.
    """
    if not keyword:
        return "unknown attribute"
    if vr == "UI":
        return "" if keyword in _CLASSES_AND_SYNTAXES else "unique identifier"
    if keyword in _KIND_OF:
        return _KIND_OF[keyword]
    for start, kind in _KIND_OF_START.items():
        if keyword.startswith(start):
            return kind
    return _KIND_OF_VR.get(vr, "")
